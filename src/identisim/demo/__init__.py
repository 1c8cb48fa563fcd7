"""The tour that shows what identisim does, on pictures that it draws itself."""
