"""The panel's sections: each renders the session and tells the session what the user wants; none knows another."""
