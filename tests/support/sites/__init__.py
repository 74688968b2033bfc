"""Sites that the tests run in processes of their own, and browsers to visit them with."""
