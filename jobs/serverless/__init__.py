"""The model as a function in a cloud: one scorer behind every kind of event, and the package that is deployed."""
