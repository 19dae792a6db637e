"""What a user adds to a Trainer. The only room that knows Lightning."""
