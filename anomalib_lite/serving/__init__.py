"""The page to look at: judges what is dropped on it or comes from a stream, and takes down what a reviewer says."""
