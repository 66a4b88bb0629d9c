"""The parts put together over the real servers, as the commands and the console use them."""
