// How are the weights of a quantised model multiplied with several columns at once? A panel of rows is unpacked into codes that fit
// the first cache, once for all columns, which are quantised and grouped as registers hold them (matmul_tile.hpp). Compiled once for
// each version.
#pragma once

#include "matmul.hpp"

#include "matmul_repacked.hpp"
#include "matmul_tile.hpp"

#include <cstdlib>
#include <new>

namespace hybrid {
namespace {

constexpr int64_t group_columns = 96;  // columns that one unpacking serves: few enough that the second cache holds them
constexpr int64_t job_weights = 24 * 1024;  // times columns: what a thread takes at once, so that taking costs nothing

class Buffer {  // grows, and is kept for the next multiplication
public:
    Buffer() = default;
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { std::free(at_); }
    // Null where there is no memory for it.
    uint8_t* of(size_t bytes) {
        if (bytes > bytes_) {
            std::free(at_);
            const size_t whole_bytes = (bytes + 4095) / 4096 * 4096;
            at_ = static_cast<uint8_t*>(std::aligned_alloc(64, whole_bytes));
            bytes_ = at_ == nullptr ? 0 : whole_bytes;
        }
        return at_;
    }
    uint8_t* surely_of(size_t bytes) {
        uint8_t* const at = of(bytes);
        if (at == nullptr) throw std::bad_alloc();
        return at;
    }

private:
    uint8_t* at_ = nullptr;
    size_t bytes_ = 0;
};

thread_local Buffer column_buffer, panel_buffer;

// Tiles of nearly the same width, none above `most` columns: where tile `index` begins.
struct Tiles {
    int64_t columns, count;
    Tiles(int64_t columns, int most) : columns(columns), count((columns + most - 1) / most) {}
    int64_t begin(int64_t index) const { return columns * index / count; }
};

template <class Format, int most = columns_of(Format::bits)>
void multiply_tile(int64_t columns, const uint8_t* panel, const uint8_t* tile, int block_count, float* result, size_t stride, int row_count) {
    if (columns == most) {
        multiply<Format, most>(panel, tile, block_count, result, stride, row_count);
    } else if constexpr (most > 1) {
        multiply_tile<Format, most - 1>(columns, panel, tile, block_count, result, stride, row_count);
    }
}

struct Product {  // one multiplication: result[column][row]
    const uint8_t* weights;
    size_t row_bytes;
    int64_t rows, columns;
    int blocks;
    const float* numbers;
    float* result;
};

// This thread's share of the columns, quantised: some blocks of each.
template <class Format>
void quantise_share(const Product& product, const Tiles& tiles, int thread, int threads, uint8_t* quantised) {
    const int first = product.blocks * thread / threads, last = product.blocks * (thread + 1) / threads;
    for (int64_t t = 0; t < tiles.count; ++t) {
        const int64_t begin = tiles.begin(t), width = tiles.begin(t + 1) - begin;
        uint8_t* const tile = quantised + begin * product.blocks * Format::column_bytes;
        for (int64_t c = 0; c < width; ++c) {
            const float* const column = product.numbers + (begin + c) * product.blocks * block_length;
            for (int b = first; b < last; ++b) {
                quantise<Format>(column + b * block_length, static_cast<int>(c), static_cast<int>(width),
                                 tile + b * width * Format::column_bytes);
            }
        }
    }
}

// One panel with the tiles from `begin` to `end`.
template <class Format>
void multiply_panel(const Product& product, const Tiles& tiles, int64_t begin, int64_t end, int64_t row, const uint8_t* quantised) {
    uint8_t* const panel = panel_buffer.surely_of(static_cast<size_t>(product.blocks) * Format::panel_bytes);
    const int row_count = static_cast<int>(std::min<int64_t>(panel_rows, product.rows - row));
    unpack<Format>(product.weights + row * product.row_bytes, product.row_bytes, row_count, product.blocks, panel);
    for (int64_t t = begin; t < end; ++t) {
        const int64_t column = tiles.begin(t);
        multiply_tile<Format>(tiles.begin(t + 1) - column, panel, quantised + column * product.blocks * Format::column_bytes,
                              product.blocks, product.result + column * product.rows + row, product.rows, row_count);
    }
}

template <class Format>
bool compute(const ggml_compute_params& params, const Product& product, const ThreadPool& pool) {
    const Tiles tiles(product.columns, columns_of(Format::bits));
    if (params.ith == 0) {
        uint8_t* const shared = column_buffer.of(static_cast<size_t>(product.columns) * product.blocks * Format::column_bytes);
        std::memcpy(params.wdata, &shared, sizeof shared);
        pool.set_next(params.threadpool, params.nth);
    }
    pool.barrier(params.threadpool);
    uint8_t* quantised;
    std::memcpy(&quantised, params.wdata, sizeof quantised);
    if (quantised == nullptr) return false;  // no memory: seen by all threads alike
    quantise_share<Format>(product, tiles, params.ith, params.nth, quantised);
    pool.barrier(params.threadpool);

    const int64_t panels = (product.rows + panel_rows - 1) / panel_rows;
    const int64_t group = std::max<int64_t>(1, group_columns / columns_of(Format::bits)), groups = (tiles.count + group - 1) / group;
    const int64_t a_panel = product.blocks * block_length * panel_rows * std::min(product.columns, group_columns);
    const int64_t together = std::max<int64_t>(1, std::min(panels / (4 * params.nth), 8 * job_weights / a_panel));
    const int64_t jobs = (panels + together - 1) / together;
    for (int64_t job = params.ith; job < jobs * groups; job = pool.add_next(params.threadpool, 1)) {
        const int64_t begin = job / jobs * group, end = std::min(tiles.count, begin + group);
        for (int64_t p = job % jobs * together; p < std::min(panels, (job % jobs + 1) * together); ++p)
            multiply_panel<Format>(product, tiles, begin, end, p * panel_rows, quantised);
    }
    return true;
}

// By one thread, of what ggml repacked.
template <class Repacked>
void compute_repacked(int length, float* result, size_t stride, const uint8_t* weights, const uint8_t* columns, int column_count, int row_count) {
    using Format = typename Repacked::Format;
    const int supers = length / (Format::blocks * block_length), blocks = supers * Format::blocks;
    const size_t panel_bytes = static_cast<size_t>(Format::blocks) * Format::panel_bytes;
    const size_t tile_bytes = static_cast<size_t>(Format::blocks) * Format::column_bytes * 4;
    uint8_t* const panel = panel_buffer.surely_of(supers * panel_bytes);
    for (int begin = 0; begin < column_count; begin += group_columns) {
        const int tiles = std::min<int>(group_columns, column_count - begin) / 4;
        uint8_t* const quantised = column_buffer.surely_of(tiles * supers * tile_bytes);
        for (int s = 0; s < tiles * supers; ++s)
            Repacked::columns(columns + (static_cast<size_t>(begin / 4) * supers + s) * Repacked::column_bytes, quantised + s * tile_bytes);
        for (int row = 0; row < row_count; row += panel_rows) {
            const uint8_t* const block = weights + static_cast<size_t>(row / eight) * supers * Repacked::bytes;
            const int there = std::min(panel_rows, row_count - row);  // whatever the other lanes hold is not stored
            for (int r = 0; r < there; r += eight) {
                const uint8_t* const of_eight = block + static_cast<size_t>(r / eight) * supers * Repacked::bytes;
                for (int s = 0; s < supers; ++s)
                    Repacked::unpack(of_eight + static_cast<size_t>(s) * Repacked::bytes, panel + s * panel_bytes + 4 * r);
            }
            for (int t = 0; t < tiles; ++t)
                multiply<Format, 4>(panel, quantised + t * supers * tile_bytes, blocks, result + (begin + 4 * t) * stride + row, stride, there);
        }
    }
}

bool is_dense(const ggml_tensor& tensor) {
    return tensor.nb[0] == sizeof(float) && tensor.nb[1] == tensor.nb[0] * tensor.ne[0] &&
           tensor.nb[2] == tensor.nb[1] * tensor.ne[1] && tensor.nb[3] == tensor.nb[2] * tensor.ne[2];
}

// Are these whole rows of a format that is ours?
bool has_our_rows(const ggml_tensor& weights) {
    const auto of = [&weights](int blocks, size_t bytes) {
        const int64_t length = blocks * block_length;
        return weights.ne[0] % length == 0 && weights.nb[0] == bytes && weights.nb[1] >= weights.ne[0] / length * bytes;
    };
    switch (static_cast<WeightType>(weights.type)) {
        case WeightType::q4_0: return of(Q4_0::blocks, Q4_0::bytes);
        case WeightType::q4_1: return of(Q4_1::blocks, Q4_1::bytes);
        case WeightType::q5_0: return of(Q5_0::blocks, Q5_0::bytes);
        case WeightType::q5_1: return of(Q5_1::blocks, Q5_1::bytes);
        case WeightType::q8_0: return of(Q8_0::blocks, Q8_0::bytes);
        case WeightType::q4_k: return of(Q4_K::blocks, Q4_K::bytes);
        case WeightType::q5_k: return of(Q5_K::blocks, Q5_K::bytes);
        case WeightType::q6_k: return of(Q6_K::blocks, Q6_K::bytes);
        default: return false;
    }
}

int64_t column_count(const ggml_tensor& numbers) { return numbers.ne[1] * numbers.ne[2] * numbers.ne[3]; }

bool takes(const ggml_compute_params& params, const ggml_tensor& result, int least_columns) {
    const ggml_tensor &weights = *result.src[0], &numbers = *result.src[1];
    const int floats = static_cast<int>(WeightType::f32);
    return has_our_rows(weights) && !params.use_ref && params.wsize >= sizeof(void*) && weights.extra == nullptr &&
           weights.ne[2] == 1 && weights.ne[3] == 1 && numbers.type == floats && result.type == floats &&
           column_count(numbers) >= least_columns && is_dense(numbers) && is_dense(result);
}

bool multiply_all(const ggml_compute_params& params, const ggml_tensor& result, const ThreadPool& pool) noexcept {
    const ggml_tensor &weights = *result.src[0], &numbers = *result.src[1];
    const Product product{static_cast<const uint8_t*>(weights.data), weights.nb[1], weights.ne[1], column_count(numbers),
                          static_cast<int>(weights.ne[0] / block_length), static_cast<const float*>(numbers.data),
                          static_cast<float*>(result.data)};
    switch (static_cast<WeightType>(weights.type)) {
        case WeightType::q4_0: return compute<Q4_0>(params, product, pool);
        case WeightType::q4_1: return compute<Q4_1>(params, product, pool);
        case WeightType::q5_0: return compute<Q5_0>(params, product, pool);
        case WeightType::q5_1: return compute<Q5_1>(params, product, pool);
        case WeightType::q8_0: return compute<Q8_0>(params, product, pool);
        case WeightType::q4_k: return compute<Q4_K>(params, product, pool);
        case WeightType::q5_k: return compute<Q5_K>(params, product, pool);
        case WeightType::q6_k: return compute<Q6_K>(params, product, pool);
        default: return false;
    }
}

void multiply_q4_k_8x8(int length, float* result, size_t stride, const void* weights, const void* columns, int column_count, int row_count) noexcept {
    compute_repacked<Q4_K_8x8>(length, result, stride, static_cast<const uint8_t*>(weights), static_cast<const uint8_t*>(columns),
                               column_count, row_count);
}

void multiply_q4_0_8x8(int length, float* result, size_t stride, const void* weights, const void* columns, int column_count, int row_count) noexcept {
    compute_repacked<Q4_0_8x8>(length, result, stride, static_cast<const uint8_t*>(weights), static_cast<const uint8_t*>(columns),
                               column_count, row_count);
}

}  // namespace
}  // namespace hybrid
