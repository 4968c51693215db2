"""What all runs share: checks of requests, turns, random numbers, what a run gives back."""
