// Our multiplication for processors with AVX2.
#include "matmul_avx2.hpp"
#include "matmul_unpack_avx2.hpp"
#include "matmul_compute.hpp"

namespace hybrid {

const Version avx2{takes, multiply_all, multiply_q4_k_8x8, multiply_q4_0_8x8};

}  // namespace hybrid
