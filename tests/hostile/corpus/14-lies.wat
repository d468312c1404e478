;; what: an answer outside of its memory
;; ends: fails panic saying out of bounds
(func $mine (param i32) (result i32) i32.const -8)

;; what: a misaligned answer
;; ends: fails panic saying not aligned
(func $mine (param i32) (result i32) i32.const 1)

;; what: a case that the type does not have
;; ends: fails panic saying discriminant
(func $mine (param i32) (result i32) (i32.store8 (i32.const 8) (i32.const 77)) i32.const 8)

;; what: a string that is not UTF-8
;; ends: fails panic saying invalid utf-8
(func $mine (param i32) (result i32)
  (i32.store (i32.const 56) (i32.const 200)) (i32.store (i32.const 60) (i32.const 1))
  (i32.store (i32.const 200) (i32.const 300)) (i32.store (i32.const 204) (i32.const 4))
  (i32.store (i32.const 300) (i32.const 0xfffefdfc))
  i32.const 8)

;; what: a list at a misaligned address
;; ends: fails panic saying not aligned
(func $mine (param i32) (result i32)
  (i32.store (i32.const 56) (i32.const 201)) (i32.store (i32.const 60) (i32.const 1))
  i32.const 8)

;; what: an allocator that gives an address outside of its memory
;; ends: fails panic saying beyond end of memory
(func $allocate (param i32 i32 i32 i32) (result i32) i32.const -16)
(func $mine (param i32) (result i32) unreachable)

;; what: an allocator that gives a misaligned address
;; ends: fails panic saying not aligned
(func $allocate (param i32 i32 i32 i32) (result i32) i32.const 3)
(func $room (drop (memory.grow (i32.const 2)))) (start $room)
(func $mine (param i32) (result i32) unreachable)

;; what: an allocator that gives every value the same place
;; ends: well
(func $allocate (param i32 i32 i32 i32) (result i32) i32.const 1024)
(func $room (drop (memory.grow (i32.const 2)))) (start $room)
(func $mine (param i32) (result i32) (memory.fill (i32.const 8) (i32.const 0) (i32.const 200)) i32.const 8)
