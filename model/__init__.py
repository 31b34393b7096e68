"""The joint model of detection and classification: tensors in, tensors out."""
