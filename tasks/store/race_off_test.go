//go:build !race

package store

const pointStride = 1
