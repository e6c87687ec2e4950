"""Result files of benchmark tools and servers, as rows of a validation set: one file a format."""
