"""The shortcut audit: does a model read the lungs, or the image around them?"""
