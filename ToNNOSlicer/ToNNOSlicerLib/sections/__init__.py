"""The panel's sections: each renders the state and tells the session what the user wants; none knows another."""
