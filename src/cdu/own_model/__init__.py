"""What an engineer with a model of his own needs to delete rows and to know what was promised."""
