"""From rows of a Lance dataset to training batches: order, cropping, augmentation, cache and streaming."""
