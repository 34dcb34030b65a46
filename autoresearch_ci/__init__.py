"""A repository improves its own training script overnight; the result is a pull request."""

__version__ = "0.1.0"
