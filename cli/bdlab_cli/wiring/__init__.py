"""What commands share: sessions, signals, the API, the checks and the drill."""
