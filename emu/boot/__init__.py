"""Guest images: what they are, and how they get into memory."""
