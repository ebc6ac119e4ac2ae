"""The course around the library: how its notebooks begin and end, are built, executed and proved fresh."""
