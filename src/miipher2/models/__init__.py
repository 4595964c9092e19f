"""The networks: frozen encoder with adapters, vocoder, discriminators. They take plain numbers and know no config."""
