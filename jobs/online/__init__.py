"""What keeps online stores and servers going: materialising, purging."""
