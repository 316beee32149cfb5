"""The embedded sample model, the text it was trained on, and the script that made it."""
