"""kws: from words to a keyword spotter running on a microcontroller."""

__version__ = "0.1.0"
