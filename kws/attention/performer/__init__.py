"""Linear attention: a sum over tokens of products of features, instead of a map."""
