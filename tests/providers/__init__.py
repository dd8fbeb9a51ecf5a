"""Do the cloud providers say and hear what they should, and fail as they must?"""
