"""Who decides: tokens, rules, and the hand-over of what was published to the queue."""
