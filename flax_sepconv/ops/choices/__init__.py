"""Tables of choices: which lowering was measured best on a kind of device, and which was wrong."""
