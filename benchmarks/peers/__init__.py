"""Programs that do what bdlab does with other means; each runs in an environment of its own."""
