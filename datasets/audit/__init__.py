"""`rehead data check`: what is wrong with a data set, found before the first GPU hour. No torch."""
