"""Two finished runs side by side: how their models differ, and what differs in how they were made."""
