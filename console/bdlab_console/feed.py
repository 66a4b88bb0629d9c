"""The newest rows and figures, asked for once and given to every viewer."""
