// One step of AdamW on bfloat16 weights, in one pass over memory.
//
// A step is often smaller than the distance between two bfloat16 numbers, and would be lost if weights had no more than that. So
// each weight is an f32 in two halves: the bfloat16 that models are computed with, rounded to nearest, and beside it what the bits
// of the f32 are above or below that. Put together again the two are the f32 to the bit.

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

struct __align__(8) Halves { u16 value[4]; };
struct __align__(8) Rests { short value[4]; };

extern "C" __global__ void adamw(
    Halves* weights, Rests* rests, const Halves* gradients, float4* first, float4* second, u64 quads, float scale, float keep, float rate,
    float epsilon, float share_1, float share_2) {
    for (u64 i = blockIdx.x * u64(blockDim.x) + threadIdx.x; i < quads; i += u64(gridDim.x) * blockDim.x) {
        Halves weight = weights[i];
        Rests rest = rests[i];
        const Halves gradient = gradients[i];
        float4 m4 = first[i], v4 = second[i];
        float* m = &m4.x;
        float* v = &v4.x;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float g = __uint_as_float(u32(gradient.value[j]) << 16) * scale;
            m[j] += (g - m[j]) * share_1;
            v[j] += (g * g - v[j]) * share_2;
            const float before = __uint_as_float((u32(weight.value[j]) << 16) + int(rest.value[j]));
            const u32 bits = __float_as_uint(before * keep - rate * m[j] / (sqrtf(v[j]) + epsilon));
            weight.value[j] = u16((bits + 0x8000u) >> 16);
            rest.value[j] = short(int(bits - (u32(weight.value[j]) << 16)));
        }
        weights[i] = weight;
        rests[i] = rest;
        first[i] = m4;
        second[i] = v4;
    }
}

// sums[block] = the squares that the block adds up
extern "C" __global__ void squares(const Halves* gradients, float* sums, u64 quads) {
    __shared__ float parts[32];
    float sum = 0;
    for (u64 i = blockIdx.x * u64(blockDim.x) + threadIdx.x; i < quads; i += u64(gridDim.x) * blockDim.x) {
        const Halves gradient = gradients[i];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float g = __uint_as_float(u32(gradient.value[j]) << 16);
            sum += g * g;
        }
    }
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int warp = 1; warp < int(blockDim.x) / 32; warp++) sum += parts[warp];
        sums[blockIdx.x] = sum;
    }
}
