"""The life of sessions, drawn by lot: several browsers and thieves, beside the fewest words on what they must see."""
