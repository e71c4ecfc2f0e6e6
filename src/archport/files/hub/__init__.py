"""A repository of the Hugging Face Hub, read as a folder."""
