"""Export: a model file in another format, and the proof that its points stayed in place."""
