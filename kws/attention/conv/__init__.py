"""Convolution over tokens in attention's place."""
