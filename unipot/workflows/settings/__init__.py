"""What a command can be told: configuration dataclasses, composition by Hydra, devices."""
