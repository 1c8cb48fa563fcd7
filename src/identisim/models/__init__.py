"""Networks: they know tensors, never the files of a benchmark."""
