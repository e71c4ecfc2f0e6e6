"""Parts that are wrong on purpose: each is a class of ours with one step changed.

They are planted above the class a part has, so that what a subclass adds to ours stays; a step that calls `super()`
changes what the part's own step is given or makes, any other stands in its place.
"""
