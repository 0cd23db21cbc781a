"""Operations as frozen views."""
