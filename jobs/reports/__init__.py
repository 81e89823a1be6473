"""What people read about models and runs."""
