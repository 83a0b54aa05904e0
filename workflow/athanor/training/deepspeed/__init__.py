"""Training of dense torch modules through DeepSpeed: fine-tuning in the Hugging Face form, and reward models."""
