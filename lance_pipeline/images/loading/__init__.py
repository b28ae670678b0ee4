"""The parts of the loader: order, views of an image, augmentation, cache and streaming."""
