;; what: a loop before anything is called
;; ends: refused does not start: cpu-budget
(func $go (loop br 0)) (start $go)

;; what: storms of memory.copy before anything is called
;; ends: refused does not start: cpu-budget
(func $go (drop (memory.grow (i32.const 2)))
  (loop (memory.copy (i32.const 0) (i32.const 1) (i32.const 60000)) br 0))
(start $go)

;; what: a loop in observe
;; ends: fails cpu-budget or deadline
(func $mine (param i32) (result i32) (loop br 0) unreachable)

;; what: memory.copy over and over in observe
;; ends: fails cpu-budget or deadline
(func $mine (param i32) (result i32)
  (drop (memory.grow (i32.const 500)))
  (loop (memory.copy (i32.const 0) (i32.const 1) (i32.const 30000000)) br 0) unreachable)

;; what: memory.fill over and over in observe
;; ends: fails cpu-budget or deadline
(func $mine (param i32) (result i32)
  (drop (memory.grow (i32.const 500)))
  (loop (memory.fill (i32.const 0) (i32.const 7) (i32.const 30000000)) br 0) unreachable)

;; what: a loop while its arguments are lowered into it
;; ends: fails cpu-budget or deadline
(func $allocate (param i32 i32 i32 i32) (result i32) (loop br 0) unreachable)
(func $mine (param i32) (result i32) unreachable)
