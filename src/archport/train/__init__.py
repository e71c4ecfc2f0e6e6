"""What trains a model."""
