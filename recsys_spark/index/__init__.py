"""User and item ids -> dense int32 indexes, and the ratings in terms of them."""
