"""Where images come from: folders, archives and samples; how they are listed and assigned to splits."""
