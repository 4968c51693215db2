"""aMUSEd."""
