"""Sources of images: folders, archives and samples, their listing and their assignment to splits."""
