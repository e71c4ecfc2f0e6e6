"""What a model is made of, for people to see: trees, differences, explanations."""
