// Kernels of the GPU's decoder: one new token of each of up to 256 sequences, in bfloat16 with sums in f32.
//
// Compiled when an engine starts (NVRTC, no headers). Matrices are row-major. "Row" is one sequence of the batch; rows of the
// batch that nobody uses have a length of 0 and leave no trace in the cache.
//
// Tensor cores multiply 16 x 16 by 16 x 8 (`mma`). Which lane holds which element of an operand is fixed, but a sum over k may
// run in any order as long as both operands agree: lane (g, c) = (lane / 4, lane % 4) loads 8 neighbouring k of its row at once,
// 16 bytes straight from memory, and uses them as elements of two products. No operand passes through shared memory.

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define NEVER __int_as_float(0xff800000)
constexpr int PAGE = 16;
constexpr u32 ALL = 0xffffffffu;

__device__ __forceinline__ float low(u32 pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }
__device__ __forceinline__ float wide(u16 value) { return __uint_as_float(u32(value) << 16); }

__device__ __forceinline__ u32 pack(float low, float high) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
__device__ __forceinline__ u16 narrow(float value) { return u16(pack(value, 0.0f)); }
__device__ __forceinline__ float rounded(float value) { return low(pack(value, 0.0f)); }

// c (16 x 8) += a (16 x 16) b (16 x 8). Of c lane (g, c) holds rows g and g + 8 at columns 2c and 2c + 1.
__device__ __forceinline__ void mma(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Where the hardware can, a kernel starts while the one before it ends: what comes before `wait` may read only what no kernel of the
// step writes. Every kernel waits, so that all that came before one has ended too.
__device__ __forceinline__ void wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Weights are read once a step and are no use to the first cache.
__device__ __forceinline__ uint4 stream(const u16* from) {
    uint4 value;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
        : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w) : "l"(from));
    return value;
}
__device__ __forceinline__ uint4 load(const u16* from) { return *reinterpret_cast<const uint4*>(from); }

__device__ __forceinline__ float warp_sum(float value) {
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(ALL, value, step);
    return value;
}

// ---------------------------------------------------------------------------------------------------------------- the stream

// x[row] = table[tokens[row]]
extern "C" __global__ void embed(const u32* tokens, const u16* table, u16* x, int width) {
    let_next_start();
    wait();
    const u16* from = table + u64(tokens[blockIdx.x]) * width;
    u16* to = x + u64(blockIdx.x) * width;
    for (int i = threadIdx.x * 8; i < width; i += blockDim.x * 8) *reinterpret_cast<uint4*>(to + i) = load(from + i);
}

// out = x / sqrt(mean(x^2) + eps) * weight
extern "C" __global__ void rms_norm(const u16* x, const u16* weight, u16* out, int width, float eps) {
    __shared__ float sums[32];
    let_next_start();
    wait();
    x += u64(blockIdx.x) * width;
    out += u64(blockIdx.x) * width;
    float sum = 0;
    for (int i = threadIdx.x * 8; i < width; i += blockDim.x * 8) {
        uint4 v = load(x + i);
        sum += low(v.x) * low(v.x) + high(v.x) * high(v.x) + low(v.y) * low(v.y) + high(v.y) * high(v.y);
        sum += low(v.z) * low(v.z) + high(v.z) * high(v.z) + low(v.w) * low(v.w) + high(v.w) * high(v.w);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? sums[threadIdx.x % 32] : 0.0f);
    float scale = rsqrtf(sum / width + eps);
    for (int i = threadIdx.x * 8; i < width; i += blockDim.x * 8) {
        uint4 v = load(x + i), w = load(weight + i), y;
        y.x = pack(low(v.x) * scale * low(w.x), high(v.x) * scale * high(w.x));
        y.y = pack(low(v.y) * scale * low(w.y), high(v.y) * scale * high(w.y));
        y.z = pack(low(v.z) * scale * low(w.z), high(v.z) * scale * high(w.z));
        y.w = pack(low(v.w) * scale * low(w.w), high(v.w) * scale * high(w.w));
        *reinterpret_cast<uint4*>(out + i) = y;
    }
}

__device__ __forceinline__ u32 gated(u32 gate, u32 up) {
    float a = low(gate), b = high(gate);
    return pack(rounded(a / (1.0f + expf(-a))) * low(up), rounded(b / (1.0f + expf(-b))) * high(up));
}

// out[row, i] = silu(both[row, i]) * both[row, width + i]
extern "C" __global__ void silu_mul(const u16* both, u16* out, int width) {
    let_next_start();
    wait();
    const u16* gate = both + u64(blockIdx.y) * 2 * width;
    int i = (blockIdx.x * blockDim.x + threadIdx.x) * 8;
    if (i >= width) return;
    uint4 g = load(gate + i), u = load(gate + width + i);
    uint4 y = make_uint4(gated(g.x, u.x), gated(g.y, u.y), gated(g.z, u.z), gated(g.w, u.w));
    *reinterpret_cast<uint4*>(out + u64(blockIdx.y) * width + i) = y;
}

// ------------------------------------------------------------------------------------------------------------ thin products

enum Mode { STORE, ADD, GATE, SCORES };

// out[row, n] = sum over k of weight[n, k] * x[row, k], for up to NT * 8 rows: reads each weight once, at the speed of memory.
// A block computes 16 n (of GATE: 16 of the gate and the same 16 of what it gates); its warps share k. `k` is a multiple of 64.
template <int NT, int MODE>
__device__ __forceinline__ void thin(const u16* weight, const u16* x, void* out, int rows, int n, int k) {
    constexpr int TILES = MODE == GATE ? 2 : 1;
    constexpr int AHEAD = MODE == GATE ? 2 : 4;
    extern __shared__ float4 parts[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32, g = lane / 4, c = lane % 4;
    const int first = blockIdx.x * 16;
    const u16* from[TILES][2];
    for (int tile = 0; tile < TILES; tile++)
        for (int half = 0; half < 2; half++)
            from[tile][half] = weight + (u64(tile) * n + min(first + g + half * 8, n - 1)) * k + c * 8;
    float acc[TILES][NT][4] = {};
    const int chunks = k / 64;
    uint4 w[AHEAD][TILES][2][2];
    auto fetch = [&](uint4(&to)[TILES][2][2], int chunk) {
        if (chunk >= chunks) return;
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                to[tile][half][0] = stream(from[tile][half] + chunk * 64);
                to[tile][half][1] = stream(from[tile][half] + chunk * 64 + 32);
            }
    };
#pragma unroll
    for (int a = 0; a < AHEAD; a++) fetch(w[a], warp + a * warps);
    let_next_start();
    wait();
    for (int chunk = warp; chunk < chunks; chunk += warps * AHEAD) {
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            const int here = chunk + a * warps, at = here * 64 + c * 8;
            if (here >= chunks) break;
#pragma unroll
            for (int nt = 0; nt < NT; nt++) {
                const int row = nt * 8 + g;
#pragma unroll
                for (int part = 0; part < 2; part++) {
                    const uint4 v = row < rows ? load(x + u64(row) * k + at + part * 32) : make_uint4(0, 0, 0, 0);
#pragma unroll
                    for (int tile = 0; tile < TILES; tile++) {
                        const uint4 p = w[a][tile][0][part], q = w[a][tile][1][part];
                        mma(acc[tile][nt], p.x, q.x, p.y, q.y, v.x, v.y);
                        mma(acc[tile][nt], p.z, q.z, p.w, q.w, v.z, v.w);
                    }
                }
            }
            fetch(w[a], here + warps * AHEAD);
        }
    }
    for (int tile = 0; tile < TILES; tile++)
        for (int nt = 0; nt < NT; nt++)
            parts[((warp * TILES + tile) * NT + nt) * 32 + lane] = make_float4(acc[tile][nt][0], acc[tile][nt][1], acc[tile][nt][2], acc[tile][nt][3]);
    __syncthreads();
    for (int at = threadIdx.x; at < NT * 32; at += blockDim.x) {
        float sums[TILES][4] = {};
        for (int w = 0; w < warps; w++)
            for (int tile = 0; tile < TILES; tile++) {
                const float4 part = parts[(w * TILES + tile) * NT * 32 + at];
                sums[tile][0] += part.x, sums[tile][1] += part.y, sums[tile][2] += part.z, sums[tile][3] += part.w;
            }
        for (int i = 0; i < 4; i++) {
            const int to = first + at % 32 / 4 + (i / 2) * 8, row = at / 32 * 8 + at % 4 * 2 + i % 2;
            if (to >= n || row >= rows) continue;
            const u64 place = u64(row) * n + to;
            u16* half = reinterpret_cast<u16*>(out);
            if (MODE == STORE) half[place] = narrow(sums[0][i]);
            if (MODE == ADD) half[place] = narrow(wide(half[place]) + rounded(sums[0][i]));
            if (MODE == GATE) half[place] = u16(gated(pack(sums[0][i], 0.0f), pack(sums[TILES - 1][i], 0.0f)));
            if (MODE == SCORES) reinterpret_cast<float*>(out)[place] = sums[0][i];
        }
    }
}

#define THIN(name, nt, mode)                                                                                             \
    extern "C" __global__ void __launch_bounds__(512, 1) name(const u16* w, const u16* x, void* out, int rows, int n, int k) { \
        thin<nt, mode>(w, x, out, rows, n, k);                                                                            \
    }
THIN(thin_store_1, 1, STORE)
THIN(thin_add_1, 1, ADD)
THIN(thin_gate_1, 1, GATE)
THIN(thin_scores_1, 1, SCORES)
THIN(thin_store_2, 2, STORE)
THIN(thin_add_2, 2, ADD)
THIN(thin_gate_2, 2, GATE)
THIN(thin_scores_2, 2, SCORES)

// ---------------------------------------------------------------------------------------------------------------- attention

// Adds the bias to queries, keys and values `both` of `[rows, heads + 2 kv_heads, E * 32]`, normalises queries and keys where
// there are weights to do so, turns them by their position, and writes keys and values where they lie in the cache. One warp a
// head; a lane holds E neighbouring elements, whole rotary pairs.
template <int E>
__device__ __forceinline__ void place(
    const u16* both, const u16* bias, const u16* q_norm, const u16* k_norm, const float* frequencies, const u32* positions,
    const u32* lengths, const u32* first_page, const u32* pages, u16* queries, u16* keys, u16* values, int heads, int kv_heads,
    float eps, float factor) {
    constexpr int D = E * 32;
    const int lane = threadIdx.x % 32, head = blockIdx.y * (blockDim.x / 32) + threadIdx.x / 32, row = blockIdx.x;
    const int all = heads + 2 * kv_heads;
    if (head >= all) return;
    const u32 length = lengths[row];
    const bool is_query = head < heads, is_key = !is_query && head < heads + kv_heads;
    float sine[E / 2], cosine[E / 2];
    if (is_query || is_key)
        for (int i = 0; i < E / 2; i++) {
            sincosf(float(positions[row]) * frequencies[lane * E / 2 + i], &sine[i], &cosine[i]);
            sine[i] *= factor, cosine[i] *= factor;
        }
    let_next_start();
    wait();
    float v[E];
    for (int i = 0; i < E; i++) {
        const int at = head * D + lane * E + i;
        v[i] = wide(both[u64(row) * all * D + at]);
        if (bias) v[i] = rounded(v[i] + wide(bias[at]));
    }
    const u16* norm = is_query ? q_norm : is_key ? k_norm : nullptr;
    if (norm) {
        float sum = 0;
        for (int i = 0; i < E; i++) sum += v[i] * v[i];
        const float scale = rsqrtf(warp_sum(sum) / D + eps);
        for (int i = 0; i < E; i++) v[i] = rounded(v[i] * scale * wide(norm[lane * E + i]));
    }
    if (is_query || is_key)
        for (int i = 0; i < E; i += 2) {
            const float a = v[i], b = v[i + 1];
            v[i] = a * cosine[i / 2] - b * sine[i / 2];
            v[i + 1] = a * sine[i / 2] + b * cosine[i / 2];
        }
    u16* to = queries + (u64(row) * heads + head) * D;
    if (!is_query) {
        if (length == 0) return;
        const u32 token = length - 1, slot = pages[first_page[row] + token / PAGE] * PAGE + token % PAGE;
        const int kv_head = (head - heads) % kv_heads;
        to = (is_key ? keys : values) + (u64(slot) * kv_heads + kv_head) * D;
    }
    for (int i = 0; i < E; i++) to[lane * E + i] = narrow(v[i]);
}

#define PLACE(name, e)                                                                                                        \
    extern "C" __global__ void name(const u16* both, const u16* bias, const u16* q_norm, const u16* k_norm, const float* freq, \
                                    const u32* positions, const u32* lengths, const u32* first_page, const u32* pages, u16* q, \
                                    u16* k, u16* v, int heads, int kv_heads, float eps, float factor) {                        \
        place<e>(both, bias, q_norm, k_norm, freq, positions, lengths, first_page, pages, q, k, v, heads, kv_heads, eps, factor); \
    }
PLACE(place_64, 2)
PLACE(place_128, 4)

__device__ __forceinline__ u32 turned(u32 pair) {
    u32 out;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(pair));
    return out;
}

// Attention of one new token of each sequence over its pages, read where they lie. A block takes one sequence, up to 8 query heads
// that share keys, and one of `splits` parts of the pages; each of its four warps takes every fourth page of the part:
// S^T (16 tokens x 8 heads) = K Q^T, then O^T (D x 8 heads) += V^T P^T, with the running maximum and sum of the softmax.
// With one part the outcome is written; with more, sums, maxima and unscaled outputs go to `merge`.
constexpr int WARPS = 4;
template <int DB>
__device__ __forceinline__ void attend(
    const u16* queries, const u16* keys, const u16* values, const u32* lengths, const u32* first_page, const u32* pages, u16* out,
    float* part_out, float* part_scale, int heads, int kv_heads, float scale) {
    constexpr int D = DB * 64;
    __shared__ uint4 q[DB * 2][32];
    __shared__ float outs[WARPS][8][D];
    __shared__ float maxima[WARPS][8], sums[WARPS][8];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, c = lane % 4;
    const int row = blockIdx.x, split = blockIdx.z, splits = gridDim.z;
    const int group = heads / kv_heads, tiles = (group + 7) / 8, kv_head = blockIdx.y / tiles, from = blockIdx.y % tiles * 8;
    const int first = kv_head * group + from, count = min(8, group - from);
    const int length = lengths[row], whole = (length + PAGE - 1) / PAGE;
    const int share = ((whole + splits - 1) / splits + WARPS - 1) / WARPS * WARPS;
    const int begin = split * share, end = min(begin + share, whole);
    const u32* mine = pages + first_page[row];
    int page = begin + warp;
    u32 here = page < end ? mine[page] : 0, next = page + WARPS < end ? mine[page + WARPS] : 0;
    let_next_start();
    wait();
    if (begin >= end) {
        if (splits > 1 && threadIdx.x < count) {
            float* place = part_scale + ((u64(row) * heads + first + threadIdx.x) * splits + split) * 2;
            place[0] = NEVER, place[1] = 0;
        }
        return;
    }
    if (warp < DB * 2)
        q[warp][lane] = g < count ? load(queries + (u64(row) * heads + first + g) * D + warp * 32 + c * 8) : make_uint4(0, 0, 0, 0);
    __syncthreads();
    const u64 stride = u64(kv_heads) * D;
    const u16* key_base = keys + u64(kv_head) * D + g * stride + c * 8;
    const u16* value_base = values + u64(kv_head) * D + 2 * c * stride + g * 8;
    float top[2] = {NEVER, NEVER}, sum[2] = {0, 0}, o[DB * 4][4] = {};
    uint4 k[DB * 2][2], v[DB][4];
    if (page < end) {
#pragma unroll
        for (int kb = 0; kb < DB * 2; kb++)
#pragma unroll
            for (int half = 0; half < 2; half++) k[kb][half] = load(key_base + (u64(here) * PAGE + half * 8) * stride + kb * 32);
    }
    for (; page < end; page += WARPS) {
#pragma unroll
        for (int db = 0; db < DB; db++)
#pragma unroll
            for (int t = 0; t < 4; t++) v[db][t] = load(value_base + (u64(here) * PAGE + t / 2 * 8 + t % 2) * stride + db * 64);
        float s[4] = {};
#pragma unroll
        for (int kb = 0; kb < DB * 2; kb++) {
            const uint4 part = q[kb][lane];
            mma(s, k[kb][0].x, k[kb][1].x, k[kb][0].y, k[kb][1].y, part.x, part.y);
            mma(s, k[kb][0].z, k[kb][1].z, k[kb][0].w, k[kb][1].w, part.z, part.w);
        }
        if (page + WARPS < end) {
#pragma unroll
            for (int kb = 0; kb < DB * 2; kb++)
#pragma unroll
                for (int half = 0; half < 2; half++) k[kb][half] = load(key_base + (u64(next) * PAGE + half * 8) * stride + kb * 32);
        }
        here = next;
        next = page + 2 * WARPS < end ? mine[page + 2 * WARPS] : 0;
        // s: token g (and g + 8) against heads 2c and 2c + 1.
#pragma unroll
        for (int i = 0; i < 4; i++) s[i] = page * PAGE + g + i / 2 * 8 < length ? s[i] * scale : NEVER;
        float shrink[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float best = fmaxf(s[h], s[h + 2]);
            best = fmaxf(best, __shfl_xor_sync(ALL, best, 4));
            best = fmaxf(best, __shfl_xor_sync(ALL, best, 8));
            best = fmaxf(best, __shfl_xor_sync(ALL, best, 16));
            best = fmaxf(best, top[h]);
            shrink[h] = exp2f(top[h] - best);
            top[h] = best;
            s[h] = exp2f(s[h] - best);
            s[h + 2] = exp2f(s[h + 2] - best);
            sum[h] = sum[h] * shrink[h] + s[h] + s[h + 2];
        }
        const u32 p0 = turned(pack(s[0], s[1])), p1 = turned(pack(s[2], s[3]));
#pragma unroll
        for (int db = 0; db < DB; db++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float(&to)[4] = o[db * 4 + j];
                to[0] *= shrink[0], to[1] *= shrink[1], to[2] *= shrink[0], to[3] *= shrink[1];
                const u32 a = (&v[db][0].x)[j], b = (&v[db][1].x)[j], d = (&v[db][2].x)[j], e = (&v[db][3].x)[j];
                mma(to, __byte_perm(a, b, 0x5410), __byte_perm(a, b, 0x7632), __byte_perm(d, e, 0x5410), __byte_perm(d, e, 0x7632), p0, p1);
            }
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        sum[h] += __shfl_xor_sync(ALL, sum[h], 4);
        sum[h] += __shfl_xor_sync(ALL, sum[h], 8);
        sum[h] += __shfl_xor_sync(ALL, sum[h], 16);
        if (g == 0) maxima[warp][2 * c + h] = top[h], sums[warp][2 * c + h] = sum[h];
    }
#pragma unroll
    for (int db = 0; db < DB; db++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) outs[warp][2 * c + i % 2][db * 64 + g * 8 + 2 * j + i / 2] = o[db * 4 + j][i];
    __syncthreads();
    for (int at = threadIdx.x; at < count * D; at += WARPS * 32) {
        const int head = at / D, d = at % D;
        float best = NEVER, all = 0, value = 0;
        for (int w = 0; w < WARPS; w++) best = fmaxf(best, maxima[w][head]);
        for (int w = 0; w < WARPS; w++) {
            const float weight = exp2f(maxima[w][head] - best);
            all += weight * sums[w][head];
            value += weight * outs[w][head][d];
        }
        const u64 place = u64(row) * heads + first + head;
        if (splits == 1) {
            out[place * D + d] = narrow(value / all);
        } else {
            part_out[(place * splits + split) * D + d] = value;
            if (d == 0) part_scale[(place * splits + split) * 2] = best, part_scale[(place * splits + split) * 2 + 1] = all;
        }
    }
}

#define ATTEND(name, db)                                                                                                          \
    extern "C" __global__ void __launch_bounds__(WARPS * 32, 4)                                                                   \
        name(const u16* q, const u16* k, const u16* v, const u32* lengths, const u32* first_page, const u32* pages, u16* out,     \
             float* part_out, float* part_scale, int heads, int kv_heads, float scale) {                                          \
        attend<db>(q, k, v, lengths, first_page, pages, out, part_out, part_scale, heads, kv_heads, scale);                       \
    }
ATTEND(attend_64, 1)
ATTEND(attend_128, 2)

// One outcome of the parts of each sequence and head, of which there are at most 32. A thread takes one of the D numbers.
extern "C" __global__ void merge(const float* part_out, const float* part_scale, u16* out, int splits) {
    __shared__ float weights[33];
    let_next_start();
    wait();
    const u64 place = u64(blockIdx.x) * gridDim.y + blockIdx.y;
    if (threadIdx.x < 32) {
        const bool there = int(threadIdx.x) < splits;
        const float2 scale = there ? reinterpret_cast<const float2*>(part_scale)[place * splits + threadIdx.x] : make_float2(NEVER, 0);
        float best = scale.x;
        for (int step = 16; step > 0; step /= 2) best = fmaxf(best, __shfl_xor_sync(ALL, best, step));
        const float weight = scale.y > 0 ? exp2f(scale.x - best) : 0.0f, all = warp_sum(weight * scale.y);
        weights[threadIdx.x] = weight;
        if (threadIdx.x == 0) weights[32] = all > 0 ? 1.0f / all : 0.0f;
    }
    __syncthreads();
    const float* from = part_out + place * splits * blockDim.x + threadIdx.x;
    float value = 0;
#pragma unroll 8
    for (int s = 0; s < splits; s++)
        // A part without pages wrote nothing.
        if (weights[s] > 0) value += weights[s] * from[s * blockDim.x];
    out[place * blockDim.x + threadIdx.x] = narrow(value * weights[32]);
}

// ----------------------------------------------------------------------------------------------------------------- sampling

// Draws one id from each row of scores: softmax(scores / temperature) without the banned ids, at the number `draws` of [0, 1) in
// the cumulative distribution; the best id where the temperature is 0. Gives the id (ALL where scores are no numbers) and the
// log-probability. A warp takes a 32nd of the vocabulary.
extern "C" __global__ void __launch_bounds__(1024) sample(
    const float* scores, const u32* bans, const float* temperatures, const float* draws, const u32* obeys, u32* ids, float* logprobs,
    int vocabulary) {
    __shared__ float best_of[32], sum_of[32];
    __shared__ int at_of[32], chosen;
    __shared__ u32 broken;
    const int row = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const float* mine = scores + u64(row) * vocabulary;
    const int share = (vocabulary / 32 + 32) / 32 * 32, begin = min(warp * share, vocabulary), end = min(begin + share, vocabulary);
    const float temperature = temperatures[row];
    const bool obey = obeys[row] != 0;
    auto score = [&](int id) {
        if (obey && (bans[id / 32] >> (id % 32) & 1)) return NEVER;
        return temperature > 0.0f ? __fdiv_rn(mine[id], temperature) : mine[id];
    };
    if (threadIdx.x == 0) broken = 0;
    let_next_start();
    wait();
    __syncthreads();
    float best = NEVER;
    int at = vocabulary;
    bool wrong = false;
#pragma unroll 4
    for (int id = begin + lane; id < end; id += 32) {
        const float value = score(id);
        wrong |= !(value < __int_as_float(0x7f800000));
        if (value > best) best = value, at = id;
    }
    for (int step = 16; step > 0; step /= 2) {
        const float other = __shfl_xor_sync(ALL, best, step);
        const int where = __shfl_xor_sync(ALL, at, step);
        if (other > best || (other == best && where < at)) best = other, at = where;
    }
    if (wrong) broken = 1;
    if (lane == 0) best_of[warp] = best, at_of[warp] = at;
    __syncthreads();
    for (int w = 0; w < 32; w++)
        if (w == 0 || best_of[w] > best) best = best_of[w], at = at_of[w];
    float sum = 0;
#pragma unroll 4
    for (int id = begin + lane; id < end; id += 32) sum += expf(score(id) - best);
    sum = warp_sum(sum);
    if (lane == 0) sum_of[warp] = sum;
    __syncthreads();
    float all = 0;
    for (int w = 0; w < 32; w++) all += sum_of[w];
    int id = at;
    if (temperature > 0.0f) {
        const float target = draws[row] * all;
        if (threadIdx.x == 0) chosen = at;
        __syncthreads();
        float before = 0;
        int crossing = 31;
        for (int w = 0; w < 32; w++) {
            if (before + sum_of[w] > target) {
                crossing = w;
                break;
            }
            before += sum_of[w];
        }
        if (warp == crossing) {
            int last = -1;
            bool found = false;
            for (int from = begin; from < end && !found; from += 32) {
                const float weight = from + lane < end ? expf(score(from + lane) - best) : 0.0f;
                float running = weight;
                for (int step = 1; step < 32; step *= 2) {
                    const float other = __shfl_up_sync(ALL, running, step);
                    if (lane >= step) running += other;
                }
                const u32 over = __ballot_sync(ALL, before + running > target), some = __ballot_sync(ALL, weight > 0.0f);
                // Rounding may leave the sum short of the target: then the last id with any probability.
                if (some) last = from + 31 - __clz(some);
                if (over) last = from + __ffs(over) - 1, found = true;
                before += __shfl_sync(ALL, running, 31);
            }
            if (lane == 0 && last >= 0) chosen = last;
        }
        __syncthreads();
        id = chosen;
    }
    if (threadIdx.x == 0) {
        const bool fine = broken == 0 && best > NEVER && id < vocabulary;
        ids[row] = fine ? id : ALL;
        logprobs[row] = fine ? score(id) - best - logf(all) : 0.0f;
    }
}
