"""What a network card is plugged into, and the frames that go there. Imports bus and errors."""
