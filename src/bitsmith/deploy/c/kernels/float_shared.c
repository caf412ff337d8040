static factor shared_by(factor f, int32_t count)
{
    return f / (float)count;
}
